"""Pages for people: one HTML file each, with everything inside it."""
