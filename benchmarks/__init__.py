"""How fast it is, and beside what: see README.md here."""
