"""The one stream to the controller: what it wants comes in, what became of it goes out."""
