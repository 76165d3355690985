"""The servicers of routing: for users, and for the inference router."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.deployments.v1.deployment_service_pb2_grpc import ReplicaServiceServicer
from aiops.routing.v1 import alert_service_pb2 as alerts_pb
from aiops.routing.v1 import route_service_pb2 as pb
from aiops.routing.v1 import rules_service_pb2 as rules_pb
from aiops.routing.v1.alert_service_pb2_grpc import RoutingAlertServiceServicer
from aiops.routing.v1.route_service_pb2_grpc import RouteServiceServicer
from aiops.routing.v1.rules_service_pb2_grpc import RoutingRulesServiceServicer

from controller.routing.alerts import Alerts
from controller.routing.convert import change_from_proto, route_to_proto, wish_from_proto
from controller.routing.feed import RoutingFeed
from controller.routing.feed_convert import change_to_proto
from controller.routing.rules_convert import decision_to_proto, rules_from_proto, rules_to_proto, task_from_proto
from controller.routing.rules_service import RoutingRules
from controller.routing.service import Routes
from mesh.rpc.context import Context, caller
from mesh.sql.paging import PageRequest


class RouteServicer(RouteServiceServicer):
    """Models as clients see them."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def ListRoutes(self, request: pb.ListRoutesRequest, context: Context) -> pb.ListRoutesResponse:
        page = await self._routes.page(caller(context), PageRequest(request.page_size, request.page_token))
        return pb.ListRoutesResponse(routes=map(route_to_proto, page.items), next_page_token=page.next_token)

    async def GetRoute(self, request: pb.GetRouteRequest, context: Context) -> pb.GetRouteResponse:
        found = await self._routes.get(caller(context), request.route_id)
        return pb.GetRouteResponse(route=route_to_proto(found))

    async def CreateRoute(self, request: pb.CreateRouteRequest, context: Context) -> pb.CreateRouteResponse:
        made = await self._routes.create(caller(context), wish_from_proto(request.route), request.request_id)
        return pb.CreateRouteResponse(route=route_to_proto(made))

    async def UpdateRoute(self, request: pb.UpdateRouteRequest, context: Context) -> pb.UpdateRouteResponse:
        change = change_from_proto(request)
        after = await self._routes.update(caller(context), request.route_id, change, request.version)
        return pb.UpdateRouteResponse(route=route_to_proto(after))

    async def DeleteRoute(self, request: pb.DeleteRouteRequest, context: Context) -> pb.DeleteRouteResponse:
        gone = await self._routes.delete(caller(context), request.route_id, request.version)
        return pb.DeleteRouteResponse(route=route_to_proto(gone))


class RoutingRulesServicer(RoutingRulesServiceServicer):
    """Which model a task is for."""

    def __init__(self, rules: RoutingRules) -> None:
        self._rules = rules

    async def GetRoutingRules(
        self, request: rules_pb.GetRoutingRulesRequest, context: Context
    ) -> rules_pb.GetRoutingRulesResponse:
        return rules_pb.GetRoutingRulesResponse(rules=rules_to_proto(await self._rules.get(caller(context))))

    async def SetRoutingRules(
        self, request: rules_pb.SetRoutingRulesRequest, context: Context
    ) -> rules_pb.SetRoutingRulesResponse:
        wanted = rules_from_proto(request, caller(context))
        after = await self._rules.set(caller(context), wanted, request.version)
        return rules_pb.SetRoutingRulesResponse(rules=rules_to_proto(after))

    async def Route(self, request: rules_pb.RouteRequest, context: Context) -> rules_pb.RouteResponse:
        return decision_to_proto(await self._rules.decide(caller(context), task_from_proto(request)))


class RoutingAlertServicer(RoutingAlertServiceServicer):
    """What router and gateway report."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts

    async def ReportRefusal(
        self, request: alerts_pb.ReportRefusalRequest, context: Context
    ) -> alerts_pb.ReportRefusalResponse:
        await self._alerts.refused(caller(context), request.subject, request.reason)
        return alerts_pb.ReportRefusalResponse()


class ReplicaServicer(ReplicaServiceServicer):
    """What the inference router needs to know."""

    def __init__(self, feed: RoutingFeed) -> None:
        self._feed = feed

    async def WatchReplicas(
        self, request: deployments_pb.WatchReplicasRequest, context: Context
    ) -> AsyncIterator[deployments_pb.WatchReplicasResponse]:
        following = self._feed.watch() if request.changes else self._feed.watch_whole()
        async with aclosing(following) as changes:
            async for change in changes:
                yield change_to_proto(change)
