"""What models cost, side by side in one run: counted without data, measured in turns."""
