"""Tunes an open store to its workload: window, device profile, cost model, policy, tuner."""
