"""The sections of a configuration: what each may hold, and what is wrong with it by itself."""
