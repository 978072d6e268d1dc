from tests.integration.ha_system import *
from tests.integration.harness import *
import time, threading
def test_look(softhsm_module, origin_ca, origin, tmp_path):
    made = HaSystem.make_ha(tmp_path/"s", origin_ca.pem)
    def run(*a):
        t=time.monotonic(); done = hsmitm(*a, "--config", str(made.toml), timeout_s=90, COLUMNS="150")
        print("$ hsmitm", *a, "->", done.returncode, f"{time.monotonic()-t:.1f}s"); print(done.stdout[:1500], end=""); print(done.stderr, end="", flush=True)
    with made:
        with Visits(made, origin.port, clients=1) as v:
            made.hsms["m1"].rules("C_Initialize hang")
            os.kill(made.pid("m1"), 9)
            time.sleep(1)
            run("hsm","status")
            run("hsm","reset","m1")
            run("hsm","info")
            before = made.toml.read_text()
            m=made.member("m3"); made.hsms["m3"].rules("C_Initialize hang")
            opt = ["--pin-file", "pin", "--token", m["token"], "--module", m["module"]] + [p for n,val in m["environment"].items() for p in ("--env", f"{n}={val}")]
            run("hsm","add","m3",*opt)
            run("hsm","remove","m3")
            t=[threading.Thread(target=run, args=("hsm","reset")) for _ in range(2)]+[threading.Thread(target=run, args=("reload",)) for _ in range(2)]
            made.hsms["m1"].clear()
            [x.start() for x in t]; [x.join() for x in t]
            made.edit(workers="2", level='"debug"'); run("reload")
            made.edit(workers="1", level='"info"');
            # run on another config dir: unprivileged?
            made.hsms["m1"].rules("C_Sign hang"); made.hsms["m2"].rules("C_Sign hang")
            time.sleep(3); run("hsm","info"); run("hsm","status"); made.hsms["m1"].clear(); made.hsms["m2"].clear()
            made.until_up("m1","m2")
        # failures allowed
    print(len(v.visits), v.failed[:3])
