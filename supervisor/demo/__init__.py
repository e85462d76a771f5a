"""The bundled store: a small real shop, with the incident's bug in it. Nothing imports it."""
