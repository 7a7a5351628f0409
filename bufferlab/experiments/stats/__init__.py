"""Numbers with intervals, from independent or dependent samples."""
