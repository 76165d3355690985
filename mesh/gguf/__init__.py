"""GGUF files, which llama.cpp serves: what their headers say, held against the files."""
