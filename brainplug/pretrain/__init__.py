"""Pre-training small backbones without labels: HuBERT and data2vec."""
