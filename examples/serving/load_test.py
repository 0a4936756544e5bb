"""Load on a server of the digits, by 1, 8 and 64 clients at a time, and requests that are wrong.

    python examples/serving/load_test.py --seconds 10

Each client holds a connection and asks for one image again as soon as it has its answer. Prints requests a second, the
50th and 99th percentile of the seconds from request to answer, and errors: answers that are no 200, connections that
broke, and answers that differ by more than 1e-5 from that of the first request. Then sends what no server should take,
each of which must be answered by a 4xx, with the server alive after it. Exit code 1 if anything was not as it should.
"""

import argparse
import http.client
import json
import multiprocessing
import sys
import time
import urllib.parse

import numpy as np
from client import PROTOCOLS, outputs_of, user_files

HEADERS = {"Content-Type": "application/json"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="of the server (default: %(default)s)")
    parser.add_argument("--model", default="digits", help="its name there (default: %(default)s)")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="open-inference", help="default: %(default)s")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="default: 1 8 64")
    parser.add_argument("--seconds", type=float, default=10, help="for each number of clients (default: %(default)s)")
    arguments = parser.parse_args()
    image = np.random.default_rng(0).random((1, 8, 8, 1), "float32")
    path, body, read = PROTOCOLS[arguments.protocol](arguments.model, image)
    good = json.dumps(body).encode()
    try:
        status, answer = send(arguments.url, path, good)
        if status != 200:
            sys.exit(f"The server answered {status}: {answer[:500]}")
        expected = outputs_of(answer, read, len(image))["output_0"]
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"{arguments.url} gave no answer ({user_files.reason(error)}). Is the server running?")
    except ValueError as error:
        sys.exit(f"{arguments.url}{path} must answer as {arguments.protocol} has it: {user_files.reason(error)}")

    failed = False
    for clients in arguments.clients:
        failed |= load(arguments, clients, path, good, expected) > 0
    for name, bad in wrong_requests(body).items():
        status = status_of(arguments.url, path, bad)
        alive = status_of(arguments.url, path, good) == 200
        failed |= not alive or status not in range(400, 500)
        print(f"{name}: {status}, and the server is {'alive' if alive else 'dead'}")
    return int(failed)


def load(arguments, clients, path, body, expected):
    """Print figures of so many clients, and return the number of errors."""
    # A process each eight clients: threads of one would wait for each other more than for the server.
    sizes = [len(part) for part in np.array_split(range(clients), -(-clients // 8))]
    jobs = [
        (arguments.url, arguments.protocol, arguments.model, path, body, expected, n, arguments.seconds) for n in sizes
    ]
    with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
        results = pool.map(keep_asking, jobs, chunksize=1)
    seconds = np.concatenate([result[0] for result in results])
    errors = sum(result[1] for result in results)
    p50, p99 = np.percentile(seconds, [50, 99]) if len(seconds) else (np.nan, np.nan)
    rate = sum(result[2] for result in results)
    print(
        f"{clients} clients: {len(seconds)} requests, {rate:.0f} a second, p50 {1000 * p50:.1f} ms, "
        f"p99 {1000 * p99:.1f} ms, errors {errors}",
        flush=True,
    )
    return errors


def keep_asking(job):
    """`(seconds of each request, errors, requests a second)` of some clients, each a thread with one connection."""
    import threading

    url, protocol, model, path, body, expected, clients, duration = job
    read = PROTOCOLS[protocol](model, np.zeros((1, 8, 8, 1), "float32"))[2]
    seconds, errors = [], []

    def ask_until(end):
        connection = connect(url)
        while time.perf_counter() < end:
            start = time.perf_counter()
            try:
                connection.request("POST", path, body, HEADERS)
                response = connection.getresponse()
                text = response.read()
                seconds.append(time.perf_counter() - start)
                outputs = outputs_of(text, read, len(expected))["output_0"] if response.status == 200 else None
                if outputs is None or outputs.shape != expected.shape or not np.abs(outputs - expected).max() <= 1e-5:
                    errors.append(response.status)
            except ValueError as error:
                errors.append(error)
            except (OSError, http.client.HTTPException) as error:
                errors.append(error)
                connection = connect(url)

    start = time.perf_counter()
    threads = [threading.Thread(target=ask_until, args=[start + duration]) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, len(errors), len(seconds) / (time.perf_counter() - start)


def wrong_requests(body):
    """What a server should refuse, by what is wrong with it."""
    if isinstance(body["inputs"], list):
        (tensor,) = body["inputs"]
        wrong = {
            "wrong shape": {**tensor, "shape": [1, 4, 4, 1], "data": [0.0] * 16},
            "shape and data that differ": {**tensor, "shape": [2, 8, 8, 1]},
            "wrong dtype": {**tensor, "datatype": "BYTES", "data": ["seven"] * 64},
            "numbers that are none": {**tensor, "data": ["seven"] * 64},
            "wrong name": {**tensor, "name": "picture"},
        }
        wrong = {name: {"inputs": [each]} for name, each in wrong.items()}
        wrong["an input twice"] = {"inputs": [tensor, tensor]}
    else:
        wrong = {
            "wrong shape": {"inputs": {"input_0": [[[[0.0]] * 4] * 4]}},
            "wrong dtype": {"inputs": {"input_0": [[[["seven"]] * 8] * 8]}},
            "wrong name": {"inputs": {"picture": body["inputs"]["input_0"]}},
        }
    return {
        **{name: json.dumps(each).encode() for name, each in wrong.items()},
        "no inputs": b"{}",
        "not JSON": b"\x00seven",
        "a huge body (256 MiB)": b'{"inputs": "' + b"7" * 2**28 + b'"}',
    }


def send(url, path, body):
    connection = connect(url)
    try:
        connection.request("POST", path, body, HEADERS)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def status_of(url, path, body):
    """The status of an answer; in words, that there is none."""
    try:
        return send(url, path, body)[0]
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({type(error).__name__})"


def connect(url):
    return http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=120)


if __name__ == "__main__":
    sys.exit(main())
