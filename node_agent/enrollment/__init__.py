"""How this machine becomes a node: a join token traded for a certificate, which is then kept fresh."""
