"""The sandbox: a local exchange that speaks OKX v5 and Binance USD-M, REST and websocket, from a tape.

* `tape.Tape` is what it plays: `tape_files.FileTape` (a folder of Parquet) or `generator.GeneratorTape` (known truth).
* `serve.serve` runs it until a signal, `serve.running` in the background of a test or the demo.
* `server.SandboxOptions` are its knobs, `/sandbox/status`, `/sandbox/clock` and `/sandbox/fault` its controls.

What goes over the wire is the venue's own shape with the venue's own awkwardness; what a tape does not know is `""`,
never a made-up figure. Nothing shows a later time than the market clock.
"""
