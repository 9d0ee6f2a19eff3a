"""What `tools/bench_peers.py` runs side by side: this project and its neighbours, each in processes of its own."""
