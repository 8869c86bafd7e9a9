"""Squares numbers on the cluster."""

import ray


@ray.remote
def square(number):
    return number * number


ray.init()
print("the sum of squares is", sum(ray.get([square.remote(number) for number in range(10)])))
