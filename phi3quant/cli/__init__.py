"""The command line: click commands, progress bars and tables. Nothing else prints or exits."""
