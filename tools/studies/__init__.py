"""The studies of docs/studies, a module each; tools/study.py runs them."""
