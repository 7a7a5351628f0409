"""Fits link profiles to measurements: tables of rows are read (``rows``), laws (``forms``) are fitted to them
(``fitting``) and one is chosen by cross-validation (``choosing``); run directories give writes, messages, copies and
iterations (``runs``, ``software``); what comes out is a report and a profile for the simulator (``report``,
``profile``).
"""
