"""Page copies between the paged device pool and one staging tensor.

`paged_pool` describes the pool, `gather_pages` and `scatter_pages` are the two Triton kernels over
the tile that `page_tile` places, and `reference` says in plain torch what they must do. Nothing
here imports the rest of the package. `paged_pool` and `reference` do without triton.
"""
