// Signs in and lists the nodes over gRPC, with stubs generated from the platform's contracts; prints one JSON object.
//   node out/main.js <base URL> <e-mail> <password>
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { AuthService } from "./gen/aiops/iam/v1/auth_service_pb.js";
import { NodeService } from "./gen/aiops/nodes/v1/node_service_pb.js";
import { Node_Status } from "./gen/aiops/nodes/v1/node_pb.js";
import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";

const [baseUrl, email, password] = process.argv.slice(2);
const transport = createGrpcTransport({ baseUrl });
const nodes = createClient(NodeService, transport);

async function refusalOf(call: Promise<unknown>): Promise<{ code: string; reason: string }> {
  try {
    await call;
  } catch (error) {
    const refused = ConnectError.from(error);
    return { code: Code[refused.code], reason: refused.findDetails(ErrorInfoSchema)[0]?.reason ?? "" };
  }
  throw new Error("the call was answered");
}

const { tokens } = await createClient(AuthService, transport).login({ email, password });
const headers = { authorization: `Bearer ${tokens?.accessToken}` };
const listed = await nodes.listNodes({ pageSize: 10 }, { headers });

console.log(
  JSON.stringify({
    nodes: listed.nodes.map((node) => ({ nodeId: node.nodeId, name: node.name, status: Node_Status[node.status] })),
    stranger: await refusalOf(nodes.listNodes({})),
    unknown: await refusalOf(nodes.getNode({ nodeId: "node-unknown" }, { headers })),
  }),
);
