"""Turn a document into a page: sheets of labelled rows, with context, footnotes and a legend."""
