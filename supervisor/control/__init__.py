"""The unix-socket protocol: messages, server, client."""
