"""Linear multistep methods: schemes with their conditions, and the one-gradient transform."""
