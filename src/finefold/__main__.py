from finefold.cli.main import run

run()
