"""The laws that a link may follow, fitted to measured cells and chosen by their error on held-out ones."""
