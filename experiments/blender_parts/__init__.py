"""What `experiments.blender` trains, writes and measures."""
