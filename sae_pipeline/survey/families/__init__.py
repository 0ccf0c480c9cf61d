"""How features of several sizes and seeds are related (paper, 'Feature splitting' and 'Feature neighborhoods')."""
