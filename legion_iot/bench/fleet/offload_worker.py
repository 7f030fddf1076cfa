"""What a user could do instead: a worker that runs the whole network for every frame it is sent, on plain paho.

    python offload_worker.py HOST PORT MODEL

Frames come on `offload/frames/<id>` as the input tensor's bytes; workers of one group share them. What comes out goes
to `offload/answers/<id>`, one output after the other. It shares no code with legion-iot, on purpose.
"""

import os
import sys

import numpy as np
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter


def main(host: str, port: int, model: str) -> None:
    """Serve until the broker is gone or the process is ended."""
    network = Interpreter(model_path=model, num_threads=1)
    network.allocate_tensors()
    frame = network.get_input_details()[0]

    def on_message(client, userdata, message) -> None:  # type: ignore[no-untyped-def]
        values = np.frombuffer(message.payload, frame["dtype"]).reshape(frame["shape"])
        network.set_tensor(frame["index"], values)
        network.invoke()
        outputs = [network.get_tensor(each["index"]).tobytes() for each in network.get_output_details()]
        client.publish(message.topic.replace("frames", "answers"), b"".join(outputs), qos=1)

    worker = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    worker.on_message = on_message
    worker.on_connect = lambda client, *rest: client.subscribe("$share/workers/offload/frames/+", qos=1)
    worker.on_subscribe = lambda *rest: print("ready", flush=True)
    worker.on_disconnect = lambda *rest: os._exit(0)
    worker.connect(host, port)
    worker.loop_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
