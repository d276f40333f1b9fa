"""What self-supervised encoders share: averaged by the server, or kept by their clients and compared on public samples."""
