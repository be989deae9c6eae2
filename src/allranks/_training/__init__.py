"""What a training script does with its ranks beside calling collectives."""
