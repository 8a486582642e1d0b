from qlib_crypto.cli.app import main

main()
