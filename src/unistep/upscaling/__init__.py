"""From a picture or a folder of pictures to larger ones."""
