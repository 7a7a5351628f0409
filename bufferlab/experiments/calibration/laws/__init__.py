"""The laws that a link may follow, fitted to measured samples and chosen by their error on held-out ones."""
