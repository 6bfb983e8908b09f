"""What a model is read from: references and public names, the hub, weights files, archives."""
