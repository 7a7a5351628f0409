"""Many runs, kept and resumed."""
