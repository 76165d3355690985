"""The command line `aiops`."""
