"""What is learned, one file each; ``base.py`` says what an objective is."""
