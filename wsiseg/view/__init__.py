"""A local viewer of finished results: slide, map and outlines in a browser on the same machine.

Reads an output folder and never writes. ``results`` says what may be shown, ``sources`` finds
the slides, ``tiles`` cuts pixels, ``app`` answers requests, ``serve`` listens. The page that
runs in the browser is in ``page/``; no network, model or third-party address is needed.
"""
