"""A gRPC client that is not ours: grpcio, with stubs made from the description.

    spine.py ADDRESS STUBS

STUBS is the folder of the generated modules. Exits with 0 when the server did everything that is asserted here.
"""

import json
import sys
import threading
import time
import uuid

import grpc

address, stubs = sys.argv[1:]
sys.path.insert(0, stubs)
from highwater.v1 import highwater_pb2 as pb  # noqa: E402
from highwater.v1 import highwater_pb2_grpc as rpc  # noqa: E402

channel = grpc.insecure_channel(address)
sql, feeds, operations = rpc.SqlStub(channel), rpc.ChangefeedStub(channel), rpc.OperationsStub(channel)


def run(text, **fields):
    """The answers of statements, as a list."""
    return list(sql.Execute(pb.ExecuteRequest(sql=text, **fields)))


def rows(text, **fields):
    """The rows of a query, as tuples."""
    found = []
    for answer in run(text, **fields):
        if answer.WhichOneof("answer") == "rows":
            for row in answer.rows.rows:
                kinds = [value.WhichOneof("kind") for value in row.values]
                found.append(tuple(getattr(v, k) if k else None for v, k in zip(row.values, kinds)))
    return found


def error_of(call):
    """The SQLSTATE and the gRPC code of a call that fails."""
    try:
        call()
    except grpc.RpcError as error:
        trailers = {key: value for key, value in error.trailing_metadata()}
        assert "grpc-status-details-bin" in trailers, trailers
        assert trailers["sqlstate"].encode() in trailers["grpc-status-details-bin"]
        return trailers["sqlstate"], error.code()
    raise AssertionError("no error")


def executes():
    run("CREATE TABLE people (id integer PRIMARY KEY, name text, height double precision, paid numeric(8,2), "
        "photo bytea, born date, tags text[], ok boolean)")
    done = run("INSERT INTO people VALUES (1, 'Ada', 1.7, 10.50, '\\x00ff', '1815-12-10', '{a,NULL}', true), "
               "(2, NULL, NULL, NULL, NULL, NULL, NULL, NULL)")
    assert done[-1].completion.tag == "INSERT 0 2" and done[-1].completion.rows == 2, done
    lsn = done[-1].completion.commit_lsn
    answers = run("SELECT * FROM people ORDER BY id", min_lsn=lsn)
    header = answers[0].header
    assert header.read_lsn >= lsn
    types = [column.type for column in header.columns]
    assert types == ["integer", "text", "double precision", "numeric(8,2)", "bytea", "date", "text[]", "boolean"], types
    assert rows("SELECT * FROM people ORDER BY id") == [
        (1, "Ada", 1.7, "10.50", b"\x00\xff", "1815-12-10", "{a,NULL}", True),
        (2,) + (None,) * 7,
    ]
    # Several statements in one call; the first that fails ends it, those before it stand.
    code = error_of(lambda: run("INSERT INTO people (id) VALUES (3); SELECT 1/0; INSERT INTO people (id) VALUES (4)"))
    assert code == ("22012", grpc.StatusCode.INVALID_ARGUMENT), code
    assert rows("SELECT id FROM people ORDER BY id") == [(1,), (2,), (3,)]
    assert error_of(lambda: run("SELECT * FROM nobody")) == ("42P01", grpc.StatusCode.NOT_FOUND)
    assert error_of(lambda: run("INSERT INTO people (id) VALUES (1)"))[0] == "23505"
    assert error_of(lambda: run("SELECT 1", session="none"))[0] == "08003"
    return lsn


def transacts(lsn):
    begun = sql.Begin(pb.BeginRequest())
    run("UPDATE people SET name = 'Bea' WHERE id = 2", session=begun.session)
    assert rows("SELECT name FROM people WHERE id = 2", session=begun.session) == [("Bea",)]
    assert rows("SELECT name FROM people WHERE id = 2") == [(None,)]
    committed = sql.Commit(pb.CommitRequest(session=begun.session)).commit_lsn
    assert committed > begun.read_lsn >= lsn
    assert rows("SELECT name FROM people WHERE id = 2", min_lsn=committed) == [("Bea",)]
    assert error_of(lambda: sql.Commit(pb.CommitRequest(session=begun.session)))[0] == "08003"
    begun = sql.Begin(pb.BeginRequest())
    run("DELETE FROM people", session=begun.session)
    sql.Rollback(pb.RollbackRequest(session=begun.session))
    assert len(rows("SELECT id FROM people")) == 3
    # The loser of a race is told so.
    first, second = sql.Begin(pb.BeginRequest()), sql.Begin(pb.BeginRequest())
    for begun in (first, second):
        run("UPDATE people SET height = 2 WHERE id = 1", session=begun.session)
    sql.Commit(pb.CommitRequest(session=first.session))
    lost = error_of(lambda: sql.Commit(pb.CommitRequest(session=second.session)))
    assert lost == ("40001", grpc.StatusCode.ABORTED), lost
    # At an LSN of before.
    past = sql.Begin(pb.BeginRequest(as_of=lsn))
    assert past.read_lsn == lsn
    assert rows("SELECT name FROM people ORDER BY id", session=past.session) == [("Ada",), (None,)]
    assert error_of(lambda: run("DELETE FROM people", session=past.session))[0] == "25006"
    sql.Rollback(pb.RollbackRequest(session=past.session))
    # A session keeps its settings.
    opened = sql.OpenSession(pb.OpenSessionRequest(settings={"search_path": "elsewhere"}))
    assert error_of(lambda: run("SELECT * FROM people", session=opened.session))[0] == "42P01"
    run("SET search_path = public", session=opened.session)
    assert len(rows("SELECT * FROM people", session=opened.session)) == 3
    sql.CloseSession(pb.CloseSessionRequest(session=opened.session))


def retries():
    number = pb.WriteNumber(producer=uuid.uuid4().bytes, sequence=1)
    first = run("INSERT INTO people (id) VALUES (10)", number=number)[-1].completion
    again = run("INSERT INTO people (id) VALUES (10)", number=number)[-1].completion
    assert not first.is_duplicate and again.is_duplicate and first.commit_lsn == again.commit_lsn, (first, again)
    number.sequence = 2
    begun = sql.Begin(pb.BeginRequest(number=number))
    run("INSERT INTO people (id) VALUES (11)", session=begun.session)
    lsn = sql.Commit(pb.CommitRequest(session=begun.session)).commit_lsn
    assert sql.Begin(pb.BeginRequest(number=number)).committed_lsn == lsn


def streams():
    """A result larger than any buffer on the way comes whole, at one LSN, and a cancelled one ends."""
    run("CREATE TABLE big (id integer PRIMARY KEY, filler text)")
    values = ",".join(f"({n}, '{'x' * 200}')" for n in range(1000))
    run(f"INSERT INTO big VALUES {values}")
    query = "SELECT a.id, b.id, a.filler FROM big AS a, big AS b WHERE a.id < 100"
    count, read = 0, set()
    for answer in sql.Execute(pb.ExecuteRequest(sql=query)):
        kind = answer.WhichOneof("answer")
        if kind == "header":
            read.add(answer.header.read_lsn)
            run("DELETE FROM big WHERE id = 5")
        elif kind == "rows":
            count += len(answer.rows.rows)
        else:
            assert answer.completion.tag == "SELECT 100000", answer
    assert count == 100_000 and len(read) == 1
    call = sql.Execute(pb.ExecuteRequest(sql="SELECT a.id FROM big AS a, big AS b, big AS c"))
    for answer in call:
        if answer.WhichOneof("answer") == "rows":
            break
    call.cancel()
    # In a session, the next statement finds it free.
    opened = sql.OpenSession(pb.OpenSessionRequest())
    call = sql.Execute(pb.ExecuteRequest(sql="SELECT a.id FROM big AS a, big AS b, big AS c", session=opened.session))
    next(iter(call))
    call.cancel()
    assert rows("SELECT 1", session=opened.session) == [(1,)]
    # Also behind one that would compute for days and give no row.
    for condition in ["a.id + b.id + c.id + d.id + e.id = -1", "a.id = b.id AND a.id + b.id + c.id + d.id + e.id = -1"]:
        query = f"SELECT count(*) FROM big a, big b, big c, big d, big e WHERE {condition}"
        call = sql.Execute(pb.ExecuteRequest(sql=query, session=opened.session))
        next(iter(call))
        time.sleep(0.2)
        call.cancel()
        assert rows("SELECT 1", session=opened.session) == [(1,)]


class Requests:
    """What the client of a subscription says, one message after another."""

    def __init__(self, start):
        self.messages, self.more = [pb.SubscribeRequest(start=start)], threading.Condition()

    def credit(self, count):
        with self.more:
            self.messages.append(pb.SubscribeRequest(credit_bytes=count))
            self.more.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.more:
            self.more.wait_for(lambda: self.messages)
            return self.messages.pop(0)


def subscribes():
    requests = Requests(pb.SubscribeStart(tables=["people"], snapshot=pb.Snapshot(), progress_ms=0))
    call = feeds.Subscribe(requests)
    events, cursor = [], None
    for message in call:
        lines = [json.loads(line) for line in message.lines.splitlines()]
        assert len(lines) == message.line_count
        events += lines
        if message.kind == pb.EVENT_KIND_READY:
            cursor = message.cursor
            break
    assert events[0]["schema"]["key"] == ["id"], events[0]
    assert [event["after"]["id"] for event in events[1:-1]] == [1, 2, 3, 10, 11]
    assert events[-1] == {"lsn": cursor.lsn, "ready": True}
    run("BEGIN; INSERT INTO people (id, name) VALUES (20, 'Cy'); DELETE FROM people WHERE id = 3; COMMIT")
    message = next(call)
    assert message.kind == pb.EVENT_KIND_CHANGES and message.ends_commit
    changes = [json.loads(line) for line in message.lines.splitlines()]
    assert [(c["op"], c["key"]["id"]) for c in changes] == [("delete", 3), ("insert", 20)], changes
    assert changes[1]["after"]["name"] == "Cy" and changes[0]["before"]["id"] == 3
    progress = next(call)
    assert progress.kind == pb.EVENT_KIND_PROGRESS and progress.cursor.lsn == changes[0]["lsn"]
    call.cancel()

    # From the cursor, with credit for one event at a time: no more than that comes, and nothing is missed.
    requests = Requests(pb.SubscribeStart(tables=["people"], after=cursor, credit_bytes=1, progress_ms=0))
    call, resumed = feeds.Subscribe(requests), []
    for message in call:
        lines = [json.loads(line) for line in message.lines.splitlines()]
        assert len(lines) == 1
        resumed += [line for line in lines if "op" in line]
        if message.kind == pb.EVENT_KIND_READY:
            break
        requests.credit(len(message.lines))
    assert resumed == changes, (resumed, changes)
    call.cancel()
    stale = pb.Cursor(log_id=bytes(16), lsn=1)
    start = pb.SubscribeStart(tables=["people"], after=stale)
    assert error_of(lambda: next(feeds.Subscribe(iter([pb.SubscribeRequest(start=start)]))))[0] == "22023"
    start = pb.SubscribeStart(tables=["people"], after_lsn=10**12)
    assert error_of(lambda: next(feeds.Subscribe(iter([pb.SubscribeRequest(start=start)]))))[0] == "HW002"


lsn = executes()
transacts(lsn)
retries()
streams()
subscribes()
state = operations.Status(pb.StatusRequest())
assert state.is_writable and state.visible_lsn == state.durable_lsn and len(state.log_id) == 16, state
print("ok")
