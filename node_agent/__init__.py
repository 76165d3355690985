"""The agent of one machine: keeps one stream to the controller and makes the machine match what it wants."""
