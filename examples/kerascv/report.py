def write(path, sequence, history, images, options):
    path.write_text("todo")
