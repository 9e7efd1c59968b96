"""Transfers with SQLAlchemy's `twophase=True`: what people use today.

Told what to do by lines on the standard input, answers by lines of JSON:

    run SECONDS    transfers for so long, in all workers
    count N        N transfers, one after the other
    (end)          stop

A worker is a thread, and the threads are spread over processes: one process computes at one
thing at a time.
"""

import json
import multiprocessing
import os
import random
import sys
import threading
import time

from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

DEBIT = text("UPDATE accounts SET balance = balance - 1 WHERE id = :id")
CREDIT = text("UPDATE accounts SET balance = balance + 1 WHERE id = :id")


class Transfers:
    def __init__(self, postgres, mysql, size):
        pool = {"pool_size": size, "max_overflow": 0}
        self.orders = create_engine(postgres, **pool)
        self.ledger = create_engine(mysql, **pool)
        self.session = sessionmaker(twophase=True)

    def transfer(self, account):
        with self.session() as session:
            session.execute(DEBIT, {"id": account}, bind_arguments={"bind": self.orders})
            session.execute(CREDIT, {"id": account}, bind_arguments={"bind": self.ledger})
            session.commit()


def work(transfers, accounts, until, latencies, errors):
    mine = []
    try:
        while time.perf_counter() < until:
            begun = time.perf_counter()
            transfers.transfer(random.choice(accounts))
            mine.append(round((time.perf_counter() - begun) * 1e6))
    except Exception as error:  # Told, and the benchmark ends.
        errors.append(repr(error))
    latencies.extend(mine)


def serve(connection, postgres, mysql, workers):
    """One process: `workers` lists the accounts of each of its threads."""
    transfers = Transfers(postgres, mysql, len(workers))
    while True:
        try:
            verb, value = connection.recv()
        except EOFError:
            return
        latencies, errors = [], []
        begun = time.perf_counter()
        if verb == "run":
            until = begun + value
            threads = [
                threading.Thread(
                    target=work, args=(transfers, accounts, until, latencies, errors)
                )
                for accounts in workers
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            for _ in range(value):
                transfers.transfer(random.choice(workers[0]))
        connection.send((latencies, errors, time.perf_counter() - begun))


def main():
    postgres, mysql, workers, accounts = sys.argv[1:]
    workers, accounts = int(workers), int(accounts)
    own = [list(range(worker, accounts, workers)) for worker in range(workers)]
    processes = min(workers, os.cpu_count() or 1)
    pipes = []
    for process in range(processes):
        here, there = multiprocessing.Pipe()
        child = multiprocessing.Process(
            target=serve, args=(there, postgres, mysql, own[process::processes]), daemon=True
        )
        child.start()
        pipes.append(here)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        verb, value = line.split()
        asked = pipes if verb == "run" else pipes[:1]
        for pipe in asked:
            pipe.send((verb, float(value) if verb == "run" else int(value)))
        answers = [pipe.recv() for pipe in asked]
        answer = {
            "micros": [micros for latencies, _, _ in answers for micros in latencies],
            "errors": [error for _, errors, _ in answers for error in errors],
            "seconds": max(seconds for _, _, seconds in answers),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
