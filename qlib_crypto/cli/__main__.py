from qlib_crypto.cli import main

main()
