"""What is timed, how, and the last figures: see README.md here."""
