"""What operators and monitors see: `page` over HTTP, `table` on a terminal."""
