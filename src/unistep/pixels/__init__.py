"""What a picture passes through as an array: tiles, colour fixes, resampling, kinds of image."""
