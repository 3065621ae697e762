"""What makes checkpoints: batches, objectives and the one training loop."""
