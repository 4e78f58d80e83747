"""One deploy, from the request to the page at its end."""
