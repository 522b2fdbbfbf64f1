"""What a trained model tells about itself: likelihood terms."""
