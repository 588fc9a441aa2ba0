"""From a document to a page: sheets of labelled rows with what has to be said about them."""
