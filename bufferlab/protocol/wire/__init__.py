"""Messages as frames: the extended wire and the SGLang fork's."""
