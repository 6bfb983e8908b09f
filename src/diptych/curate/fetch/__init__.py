"""Asynchronous image downloader: limits per host, robots.txt, SSRF protection."""
