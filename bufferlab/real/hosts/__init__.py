"""Where the rank processes of a run live: on this host, or each where it is started."""
