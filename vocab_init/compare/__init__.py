"""The methods side by side, before any training."""
